# What the role gateway needs in Consul: process "east-1" at "east" of the virtual cluster "shop".
# Printed by spillway config consul-policy gateway.

# whether automation is paused
key "spillway/shop/automation" { policy = "read" }

# what the observers say
key_prefix "spillway/shop/ballots/" { policy = "read" }

# what its clients changed
key_prefix "spillway/shop/client-audit/" { policy = "write" }

# which sites are drained
key_prefix "spillway/shop/drained/" { policy = "read" }

# how drills went
key_prefix "spillway/shop/drills/" { policy = "read" }

# which gateways live
key_prefix "spillway/shop/gateways/" { policy = "read" }

# its own lease
key "spillway/shop/gateways/east-1" { policy = "write" }

# that it is this virtual cluster
key "spillway/shop/identity" { policy = "read" }

# which gateway leads what
key "spillway/shop/layout" { policy = "read" }

# which mirrors live, and how far they are
key_prefix "spillway/shop/mirrors/" { policy = "read" }

# confirm a move: held, drained, opened
key_prefix "spillway/shop/moves/" { policy = "write" }

# what it heard that a site offers
key_prefix "spillway/shop/offers/" { policy = "write" }

# raise the reserved ends of what it serves
key_prefix "spillway/shop/reserved/" { policy = "write" }

# who serves what
key_prefix "spillway/shop/shares/" { policy = "read" }

# topics that its clients create
key_prefix "spillway/shop/topics/" { policy = "write" }
