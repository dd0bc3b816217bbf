# What the role console needs in Consul: the virtual cluster "shop".
# Printed by spillway config consul-policy console.

# whether automation is paused
key "spillway/shop/automation" { policy = "read" }

# what the observers say
key_prefix "spillway/shop/ballots/" { policy = "read" }

# which sites are drained
key_prefix "spillway/shop/drained/" { policy = "read" }

# how drills went
key_prefix "spillway/shop/drills/" { policy = "read" }

# which gateways live
key_prefix "spillway/shop/gateways/" { policy = "read" }

# that it is this virtual cluster
key "spillway/shop/identity" { policy = "read" }

# which mirrors live, and how far they are
key_prefix "spillway/shop/mirrors/" { policy = "read" }

# who serves what
key_prefix "spillway/shop/shares/" { policy = "read" }
