# What the role operator needs in Consul: the virtual cluster "shop".
# Printed by spillway config consul-policy operator.

# who changed what, and why
key_prefix "spillway/shop/audit/" { policy = "write" }

# pause and resume
key "spillway/shop/automation" { policy = "write" }

# what the observers say
key_prefix "spillway/shop/ballots/" { policy = "read" }

# what was known when a move began
key_prefix "spillway/shop/beside/" { policy = "write" }

# drain and return sites
key_prefix "spillway/shop/drained/" { policy = "write" }

# keep the account of a drill
key_prefix "spillway/shop/drills/" { policy = "write" }

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

# claim a replay of unreplicated records: one of a group at a time
key_prefix "spillway/shop/replays/" { policy = "write" }

# dry runs: what a failover would burn
key_prefix "spillway/shop/reserved/" { policy = "read" }

# begin and abort moves
key_prefix "spillway/shop/shares/" { policy = "write" }
