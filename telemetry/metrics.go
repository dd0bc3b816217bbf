package telemetry

// Buckets in seconds. Moves take tenths of seconds to a minute, requests from a
// fraction of a millisecond to a held request's eight seconds.
var (
	requestBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	moveBuckets    = []float64{.05, .1, .2, .3, .5, .75, 1, 1.5, 2, 3, 5, 8, 15, 30, 60}
)

// The process.
var (
	buildInfo = gauge("spillway_build_info", "", "Always 1; the labels say what runs.", "version", "go_version")
	ready     = gauge("spillway_ready", "", "1 while a check of /readyz passes.", "check")
)

// Shares, sites and flows: from the status that the console shows too.
var (
	statusAge     = gauge("spillway_status_age_seconds", "seconds", "Age of the observation behind the gauges about shares, sites and flows. High: they are stale.")
	coordinatorUp = gauge("spillway_coordinator_up", "", "1 while the coordinator store answers.")
	automation    = gauge("spillway_automation_paused", "", "1 while automatic failover is paused by a person.")
	siteUp        = gauge("spillway_site_up", "", "1 while the votes of the places find the site up or degraded, 0 while down.", "site")
	siteGateways  = gauge("spillway_site_gateways", "gateways", "Gateways at the site that hold a lease.", "site")
	siteMirrors   = gauge("spillway_site_mirrors", "mirrors", "Mirrors at the site that hold a lease.", "site")

	shareEpoch        = gauge("spillway_share_epoch", "epoch", "Failover epoch of the group. Rises with every move and abort.", "failover_group")
	shareState        = gauge("spillway_share_state", "", "1 for the state that the group is in, 0 for the others.", "failover_group", "state")
	shareActive       = gauge("spillway_share_active", "", "1 for the site that serves the group, 0 for the others.", "failover_group", "site")
	shareSafe         = gauge("spillway_share_failover_safe", "", "1 if losing the active site now would keep the group within its loss limit, 0 if not.", "failover_group")
	shareDegraded     = gauge("spillway_share_degraded", "", "1 while producers are answered before the configured number of sites hold their records.", "failover_group")
	shareUnreplicated = gauge("spillway_share_unreplicated_records", "records", "Offsets that the active site has and the best standby lacks: what a failover now could lose.", "failover_group")
	shareLossMax      = gauge("spillway_share_loss_records_max", "records", "Configured limit of records that an automatic failover may lose.", "failover_group")
	flowLag           = gauge("spillway_flow_lag_records", "records", "Offsets that the source has and the target lacks.", "failover_group", "source", "target")
	flowUp            = gauge("spillway_flow_up", "", "1 while the flow's mirror tells that it follows, 0 while it is silent or has a problem.", "failover_group", "source", "target")
	flowSilent        = gauge("spillway_flow_silent_seconds", "seconds", "Time since the flow's mirror was last heard.", "failover_group", "source", "target")
)

// The gateway, from the events of federation/session and federation/router.
var (
	gatewayConnections  = gauge("spillway_gateway_connections", "connections", "Client connections that are open.")
	gatewayOpened       = counter("spillway_gateway_connections_opened_total", "connections", "Client connections that were accepted.")
	gatewayClosed       = counter("spillway_gateway_connections_closed_total", "connections", "Client connections that ended, by reason. High for frame-*, unknown-api or malformed: somebody speaks something else than Kafka.", "reason")
	gatewayRequests     = counter("spillway_gateway_requests_total", "requests", "Requests that were answered, by API.", "api")
	gatewayRequestTime  = histogram("spillway_gateway_request_seconds", "Time from a request's arrival to its answer's write, holds included.", requestBuckets, "api")
	gatewayHeldNow      = gauge("spillway_gateway_held_requests", "requests", "Requests that wait because their group moves or is not served.", "failover_group")
	gatewayHeld         = counter("spillway_gateway_held_requests_total", "requests", "Requests that had to wait because their group moved or was not served.", "failover_group")
	gatewayHoldTime     = histogram("spillway_gateway_hold_seconds", "How long held requests waited: what clients feel of a move.", moveBuckets, "failover_group")
	gatewayRefusals     = counter("spillway_gateway_refusals_total", "requests", "Partitions or requests that the gateway itself refused, by reason.", "reason")
	gatewayRecords      = counter("spillway_gateway_produced_records_total", "records", "Records that were acknowledged to producers.", "failover_group")
	gatewayBytes        = counter("spillway_gateway_produced_bytes_total", "bytes", "Bytes of the batches that were acknowledged to producers.", "failover_group")
	gatewayProduceTime  = histogram("spillway_gateway_produce_seconds", "Time from a batch's arrival to its acknowledgement, the wait for other sites included.", requestBuckets, "failover_group")
	gatewayProduceLocal = histogram("spillway_gateway_produce_site_seconds", "The active site's part of the time to acknowledge a batch; the rest is waiting for reserved end and durable mark.", requestBuckets, "failover_group")
	gatewayContacts     = counter("spillway_gateway_first_contacts_total", "batches", "First batches of producers after a move, by outcome: forwarded, duplicate (it was there already), waited, refused.", "outcome")
	gatewayBytesHeld    = gauge("spillway_gateway_held_bytes", "bytes", "Bytes held for clients: requests without an answer, held ones included, and answers that are not yet written.")
	gatewayFetchLimited = counter("spillway_gateway_fetches_limited_total", "requests", "Fetches that got less than was there, because the bytes for the whole process are used up (gateway.limits.unansweredBytesMax).")
	gatewayNotAccepted  = counter("spillway_gateway_connections_refused_total", "connections", "Client connections that were not accepted: too many, too many of one address (too-many-of-address), too many that one opened in a time (too-fast-of-address), too many of one principal (too-many-of-principal), too many that have not said who they are, or the TLS handshake failed.", "reason")
	gatewayLogins       = counter("spillway_gateway_authentications_total", "logins", "Logins of clients by mechanism (SASL, certificate, or none where no mechanism that is served was named), and how they ended: success, renewed (on the same connection), credentials (wrong user or password), malformed, mechanism, principal (another one than before), order (a step at the wrong time), expired (a token that has run out or is not good yet), key (a token signed by a key that is not known), busy (more passwords to check than there is time for). High for credentials: somebody tries passwords, or a client has an old one.", "mechanism", "outcome")
	gatewayDenials      = counter("spillway_gateway_denials_total", "denials", "What clients asked for by name and may not do, by kind of resource (topic, group, transactional_id, cluster) and operation. The log names some of them, with principal and reason.", "resource", "operation")
	gatewayRightsAge    = gauge("spillway_gateway_rights_age_seconds", "seconds", "Age of the access control list of a site by which the gateway decides what clients may do; of one that was never read, how long it has been asked for. Told after each look, at most 15 s apart, ten times what reading takes where that is longer.", "site")
	gatewayOverQuota    = histogram("spillway_gateway_quota_throttle_seconds", "For how long client connections are not read, or their first batch waits, because their principal used more than its quota (gateway.quotas): time that is added to a pause counts once. kind: produce and fetch (bytes), request (number).", moveBuckets, "kind")
	gatewayLease        = gauge("spillway_gateway_lease_held", "", "1 while the gateway holds its lease and so may serve.")
	gatewayEpoch        = gauge("spillway_gateway_share_epoch", "epoch", "Newest epoch of the group that the gateway took notice of.", "failover_group")
	gatewayLagRecords   = gauge("spillway_gateway_lag_records", "records", "Records of the partition that is worst off, of those that the gateway leads, that lie at the active site alone. Where acknowledgements wait for one site; no series until something was written since the gateway leads it.", "failover_group")
	gatewayLagTime      = gauge("spillway_gateway_lag_seconds", "seconds", "Since the oldest of them was written.", "failover_group")
	gatewayLagging      = gauge("spillway_gateway_lagging_partitions", "partitions", "Partitions of which the other sites lack more than ack.lagMax or ack.lagRecordsMax allows. Not 0: see ack.onLag.", "failover_group")
	gatewayThrottle     = histogram("spillway_gateway_throttle_seconds", "How late producers were answered because the other sites are behind (ack.onLag throttle).", requestBuckets, "failover_group")
	gatewayPicks        = counter("spillway_gateway_picks_total", "batches", "Batches of unordered groups by where they were written, and why there.", "failover_group", "reason")
	gatewayEjections    = counter("spillway_gateway_ejections_total", "ejections", "Times that the gateway left out a site for unordered batches, because of its answers.", "failover_group")
	gatewayBlockedNow   = gauge("spillway_gateway_blocked_acknowledgements", "batches", "Batches whose producers wait for an answer until the other sites are near enough (ack.onLag block).", "failover_group")
	gatewayBlockTime    = histogram("spillway_gateway_block_seconds", "How long such batches waited.", requestBuckets, "failover_group")
	gatewayNearReads    = counter("spillway_gateway_near_reads_total", "reads", "Answers with records of a partition, to consumers that stand at a site of its group (failoverGroups reads standby), by where they were read: standby, their own site, which follows; active, their own site, which serves; far, another site, though their own was ready; unready, another site, as their own has no gateway, is too old (freshnessMax), or lacks it. High for far: consumers do not reach the gateways at their site.", "failover_group", "from")
	gatewayNearRecords  = counter("spillway_gateway_near_read_records_total", "records", "Records in those answers.", "failover_group", "from")
	gatewayNearBytes    = counter("spillway_gateway_near_read_bytes_total", "bytes", "Bytes of the batches in those answers.", "failover_group", "from")
	gatewayReadsSent    = counter("spillway_gateway_reads_sent_total", "answers", "Times that such a consumer was told where to read a partition: near, at its own site, or back, with the leader, since its site was too old (freshnessMax), or to be told that an offset does not exist.", "failover_group", "way")
	gatewayBehind       = gauge("spillway_gateway_standby_behind_records", "records", "Offsets that a standby lacked of what the active site had when it was asked last; of the worst of the partitions that consumers read, or would read, there through this gateway. No series where none does.", "failover_group", "site")
	gatewayBehindTime   = gauge("spillway_gateway_standby_behind_seconds", "seconds", "How long ago the standby is known to have had all that the active site had, of the worst of them. Up to about a second while it follows well.", "failover_group", "site")
	gatewayStale        = gauge("spillway_gateway_standby_stale_partitions", "partitions", "Of them, those whose standby is older than freshnessMax, or was until lately: consumers read elsewhere.", "failover_group", "site")
	gatewayServing      = gauge("spillway_gateway_share_serving", "", "1 while the gateway serves the group: it is open here and the gateway holds its lease.", "failover_group")
	gatewayProblems     = counter("spillway_gateway_problems_total", "problems", "Things that failed and are tried again, such as reading the coordinator store. The log names them.")
)

// The mirror, from its events.
var (
	mirrorRecords    = counter("spillway_mirror_records_total", "records", "Records that were appended at the target and compared with the plan.", "source", "target", "topic")
	mirrorBytes      = counter("spillway_mirror_bytes_total", "bytes", "Bytes of the batches that were appended at the target.", "source", "target", "topic")
	mirrorBatches    = counter("spillway_mirror_batches_total", "batches", "Batches that were appended, by form: passed as they were, or rebuilt because of holes, limits, filters, provenance or repack.", "source", "target", "form")
	mirrorLeftOut    = counter("spillway_mirror_left_out_records_total", "records", "Records that filters left out. They are no gaps.", "source", "target", "topic")
	mirrorLatency    = histogram("spillway_mirror_replication_seconds", "Age of a batch's newest record when its mark was due. Records that carry old timestamps count as old.", []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300}, "source", "target")
	mirrorUndecided  = gauge("spillway_mirror_undecided_records", "records", "Of spillway_mirror_lag_records, those that open transactions hold back at the source.", "failover_group", "source", "target")
	mirrorHanging    = gauge("spillway_mirror_hanging_transactions", "partitions", "Partitions whose records a transaction at the source has held back for longer than mirror.transactionWait.", "failover_group", "source", "target")
	mirrorLag        = gauge("spillway_mirror_lag_records", "records", "Records at the source that the mirror knows of and that are not at its site yet, of the partitions that this process has.", "failover_group", "source", "target")
	mirrorLagTime    = gauge("spillway_mirror_lag_seconds", "seconds", "Time since the flow was last caught up; 0 while it is. What open transactions hold back does not count: see spillway_mirror_hanging_transactions.", "failover_group", "source", "target")
	mirrorPartitions = gauge("spillway_mirror_partitions", "partitions", "Partitions of the flow by state: running, stopped, or elsewhere, with other mirror processes.", "failover_group", "source", "target", "state")
	mirrorWorkers    = gauge("spillway_mirror_workers", "workers", "Mirror processes that share the flow, this one included.", "failover_group", "source", "target")
	mirrorMoved      = counter("spillway_mirror_partitions_moved_total", "partitions", "Partitions that changed hands between this worker and others, by direction: taken or given. Many: workers come and go, or stand still for seconds.", "failover_group", "source", "target", "direction")
	mirrorGaps       = counter("spillway_mirror_gaps_total", "gaps", "Entries that were added to the gap log, by kind. Every one deserves a look.", "site", "kind")
	mirrorResyncs    = counter("spillway_mirror_resyncs_total", "resyncs", "Times that a partition's position was read back from the target after an unsure answer.", "target")
	mirrorForeign    = counter("spillway_mirror_foreign_offsets_total", "offsets", "Offsets of a standby that somebody else than its mirror wrote; hidden from clients.", "target", "topic", "writer")
	mirrorSessions   = counter("spillway_mirror_append_sessions_total", "sessions", "Append sessions that were opened. Many: the mirror changes hands or restarts.", "target")
	mirrorMarks      = counter("spillway_mirror_marks_total", "marks", "Durable marks that were published.", "site")
	mirrorGroups     = counter("spillway_mirror_group_offsets_total", "offsets", "Positions of consumer groups that were carried over.", "failover_group")
	mirrorGroupAge   = gauge("spillway_mirror_group_age_seconds", "seconds", "For how long the positions of a consumer group have not been carried over, of the one that has failed the longest; 0: all are. The log and spillway status name it.", "failover_group", "source", "target")
	mirrorMetadata   = counter("spillway_mirror_metadata_total", "items", "What the mirror carried beside records, by kind and outcome: changed here, kept although it differs from the source because somebody else had set it, or failed and is tried again. The log says what.", "target", "kind", "outcome")
	mirrorMemory     = gauge("spillway_mirror_memory_bytes", "bytes", "Bytes that the flows of the process hold of records: asked for, being written, and copied into requests.", "target")
	mirrorMemoryMax  = gauge("spillway_mirror_memory_bytes_max", "bytes", "Bytes that they may hold (mirror.memory, --memory). Close to that all the time: flows wait for memory.", "target")
	mirrorThrottle   = counter("spillway_mirror_throttle_seconds_total", "seconds", "Pauses that brokers of the site asked for, added up over connections, since the mirror's principal has a quota there. side: source (records are read) or target (they are written). Rises by 1 a second and more: the quota is what the mirror goes as fast as.", "site", "side")
	mirrorStops      = counter("spillway_mirror_partition_stops_total", "stops", "Times that a partition of a flow stopped. The log says why.", "failover_group", "source", "target")
)

// The control loop, from its events.
var (
	moveTransitions = counter("spillway_move_transitions_total", "transitions", "States that this process's control loop wrote into share records.", "failover_group", "kind", "state")
	moveHeld        = histogram("spillway_move_held_seconds", "Time from FENCING to OPEN of moves that this process's control loop opened: how long produce requests were held.", moveBuckets, "failover_group", "kind")
	moveAsks        = counter("spillway_move_asks_total", "questions", "Times that a control loop found that a person must decide. The log and the page say what.", "failover_group")
	actionFailures  = counter("spillway_control_action_failures_total", "failures", "Actions of a move that failed and are tried again.", "failover_group", "action")
	followFailures  = counter("spillway_control_follow_failures_total", "failures", "Times that the site's mirror could not do what a share's state asks; tried again.", "failover_group", "state")
	votes           = gauge("spillway_vote_down", "", "1 while this process's observer votes that the site is down.", "site")
	mirrorLeaseHeld = gauge("spillway_mirror_lease_held", "", "1 while the mirror holds its lease in the coordinator store.")
)
