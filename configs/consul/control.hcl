# What the role control needs in Consul: process "east-1" at "east" of the virtual cluster "shop".
# Printed by spillway config consul-policy control.

# whether automation is paused
key "spillway/shop/automation" { policy = "read" }

# what the observers say
key_prefix "spillway/shop/ballots/" { policy = "read" }

# its own votes
key "spillway/shop/ballots/east" { policy = "write" }

# what was known when a move began
key_prefix "spillway/shop/beside/" { policy = "write" }

# take away what is old, and tell of topics that were not made
key_prefix "spillway/shop/client-audit/" { policy = "write" }

# which sites are drained
key_prefix "spillway/shop/drained/" { policy = "read" }

# how drills went
key_prefix "spillway/shop/drills/" { policy = "read" }

# which gateways live
key_prefix "spillway/shop/gateways/" { policy = "read" }

# the record of each move
key_prefix "spillway/shop/history/" { policy = "write" }

# say at the beginning which virtual cluster it is
key "spillway/shop/identity" { policy = "write" }

# lay out who leads
key "spillway/shop/layout" { policy = "write" }

# which mirrors live, and how far they are
key_prefix "spillway/shop/mirrors/" { policy = "read" }

# read reports, and take away those of moves that are long over
key_prefix "spillway/shop/moves/" { policy = "write" }

# ask that none has risen; that a key is absent, Consul lets only those ask who may write it
key_prefix "spillway/shop/reserved/" { policy = "write" }

# drive moves
key_prefix "spillway/shop/shares/" { policy = "write" }

# carry on what gateways began
key_prefix "spillway/shop/topics/" { policy = "write" }
