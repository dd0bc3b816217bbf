# What the role mirror needs in Consul: process "east-1" at "east" of the virtual cluster "shop".
# Printed by spillway config consul-policy mirror.

# whether automation is paused
key "spillway/shop/automation" { policy = "read" }

# what the observers say
key_prefix "spillway/shop/ballots/" { policy = "read" }

# what its site alone had, after a failover
key_prefix "spillway/shop/beside/" { policy = "write" }

# which sites are drained
key_prefix "spillway/shop/drained/" { policy = "read" }

# how drills went
key_prefix "spillway/shop/drills/" { policy = "read" }

# which gateways live
key_prefix "spillway/shop/gateways/" { policy = "read" }

# where earlier epochs began and ended
key_prefix "spillway/shop/history/" { policy = "read" }

# that it is this virtual cluster
key "spillway/shop/identity" { policy = "read" }

# which mirrors live, and how far they are
key_prefix "spillway/shop/mirrors/" { policy = "read" }

# its own lease
key "spillway/shop/mirrors/east/east-1" { policy = "write" }

# what its site has done of a move
key_prefix "spillway/shop/moves/" { policy = "write" }

# who serves what
key_prefix "spillway/shop/shares/" { policy = "read" }

# the lease of the worker that leads at its site
key "spillway/shop/writers/east" { policy = "write" }
