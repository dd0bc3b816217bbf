package broker

import "errors"

// Sentinels on which callers branch. Adapters wrap them with site, node and request.
var (
	ErrTopicExists            = errors.New("topic exists")
	ErrUnknownTopic           = errors.New("topic or partition is not known")
	ErrNoLeader               = errors.New("partition has no leader")
	ErrNotLeader              = errors.New("broker does not lead the partition")
	ErrGroupActive            = errors.New("group has members")
	ErrUnknownGroup           = errors.New("group is not known")
	ErrUnknownTransactionalID = errors.New("transactional id is not known")
	ErrTransactionEnding      = errors.New("a transaction of the id is being ended")
	ErrNotSupported           = errors.New("the cluster cannot do this")
	ErrNotAuthorized          = errors.New("not authorized")
	ErrUnknownNode            = errors.New("node is not known")
	ErrAllUnreachable         = errors.New("no broker of the site can be reached")
)
