# What the role reader needs in Consul: the virtual cluster "shop".
# Printed by spillway config consul-policy reader.

# whether automation is paused
key "spillway/shop/automation" { policy = "read" }

# what the observers say
key_prefix "spillway/shop/ballots/" { policy = "read" }

# what was known of them
key_prefix "spillway/shop/beside/" { policy = "read" }

# which sites are drained
key_prefix "spillway/shop/drained/" { policy = "read" }

# how drills went
key_prefix "spillway/shop/drills/" { policy = "read" }

# which gateways live
key_prefix "spillway/shop/gateways/" { policy = "read" }

# earlier moves
key_prefix "spillway/shop/history/" { policy = "read" }

# that it is this virtual cluster
key "spillway/shop/identity" { policy = "read" }

# which mirrors live, and how far they are
key_prefix "spillway/shop/mirrors/" { policy = "read" }

# dry runs: what is reported
key_prefix "spillway/shop/moves/" { policy = "read" }

# dry runs: what a failover would burn
key_prefix "spillway/shop/reserved/" { policy = "read" }

# who serves what
key_prefix "spillway/shop/shares/" { policy = "read" }
