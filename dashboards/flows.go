package dashboards

// flows is the page about replication flows and gateways.
func flows() Dashboard {
	return assemble(Dashboard{
		File: "flows-and-gateway.json", UID: "spillway-flows-and-gateway", Title: "Spillway / Flows and gateways",
		Description: "How far standbys are behind, what clients get from the gateways, and how the processes are. Worst first.",
	}, []row{{"Now", flowTiles()}, {"Replication flows", flowPanels()}, {"Gateways", gatewayPanels()}, {"Refusals and problems", refusalPanels()}, {"Processes", processPanels()}})
}

const flow = "failover_group, source, target"

func flowTiles() []picture {
	return []picture{
		{
			kind: stat, title: "Flows that do not run", unit: "short", thresholds: badFrom(1),
			help:    "Flows whose mirror is silent or has a problem. Their target falls behind.",
			queries: []query{{number(per("min", "job, "+flow, fresh(shared("spillway_flow_up"))) + " == 0"), "flows"}},
		},
		{
			kind: stat, title: "Largest lag", unit: "s", thresholds: warnFrom(5, 30),
			help:    "Time since the flow that is worst off was last caught up.",
			queries: []query{{"max(" + shared("spillway_mirror_lag_seconds") + ")", "lag"}},
		},
		{
			kind: stat, title: "Gateways without a lease", unit: "short", thresholds: badFrom(1),
			help:    "They serve nobody until they hold one again.",
			queries: []query{{number(of("spillway_gateway_lease_held") + " == 0"), "gateways"}},
		},
		{
			kind: stat, title: "Processes that are silent", unit: "short", thresholds: badFrom(1),
			help:    "Processes that Prometheus cannot scrape.",
			queries: []query{{number(of("up") + " == 0"), "processes"}},
		},
		{
			kind: stat, title: "Processes not ready", unit: "short", thresholds: badFrom(1),
			help:    "Processes with a check of /readyz that fails; the panel of checks below names it.",
			queries: []query{{number(per("min", "job, instance", of("spillway_ready")) + " == 0"), "processes"}},
		},
		{
			kind: stat, title: "Foreign offsets", unit: "short", thresholds: badFrom(1),
			help:    "Offsets of standbys that somebody else than their mirror wrote in the time range of this page. They are hidden from clients.",
			queries: []query{{"round(sum(increase(" + of("spillway_mirror_foreign_offsets_total") + "[$__range]))) or vector(0)", "offsets"}},
		},
	}
}

func flowPanels() []picture {
	const name = "{{failover_group}}: {{source}} → {{target}}"
	pair := "{{source}} → {{target}}"
	return []picture{
		{
			kind: timeline, title: "Flows", unit: "short", thresholds: []step{{red, nil}, {green, ptr(1)}},
			help:    "Whether the flow's mirror tells that it follows.",
			words:   goodBad("follows", "does not"),
			queries: []query{{per("min", flow, fresh(shared("spillway_flow_up"))), name}},
		},
		{
			kind: timeseries, title: "Lag in time", unit: "s", thresholds: badFrom(30),
			help:    "Time since each flow was last caught up; 0 while it is.",
			queries: []query{{per("max", flow, shared("spillway_mirror_lag_seconds")), name}},
		},
		{
			kind: timeseries, title: "Lag in records", unit: "short", thresholds: plain(),
			help: "Offsets that the source has and the target lacks, as the places see it and as the mirror itself knows.",
			queries: []query{
				{per("max", flow, fresh(shared("spillway_flow_lag_records"))), name},
				{per("sum", flow, shared("spillway_mirror_lag_records")), name + ", mirror's own"},
			},
		},
		{
			kind: timeseries, title: "Time to replicate", unit: "s", thresholds: plain(),
			help: "Age of a batch's newest record when its mark was due. Records that carry old timestamps count as old.",
			queries: []query{
				{quantile(0.5, "source, target", of("spillway_mirror_replication_seconds_bucket")), pair + " median"},
				{quantile(0.99, "source, target", of("spillway_mirror_replication_seconds_bucket")), pair + " 99th percentile"},
			},
		},
		{
			kind: timeseries, title: "Records mirrored", unit: "recps", thresholds: plain(),
			help:    "Records that were appended at the target and compared with the plan.",
			queries: []query{{per("sum", "source, target", rate(of("spillway_mirror_records_total"))), pair}},
		},
		{
			kind: timeseries, title: "Bytes mirrored", unit: "Bps", thresholds: plain(),
			help:    "Bytes of the batches that were appended at the target.",
			queries: []query{{per("sum", "source, target", rate(of("spillway_mirror_bytes_total"))), pair}},
		},
		{
			kind: timeseries, title: "Mirrors unheard", unit: "s", thresholds: badFrom(5),
			help:    "Time since each flow's mirror was last heard by the other places.",
			queries: []query{{per("min", flow, fresh(shared("spillway_flow_silent_seconds"))), name}},
		},
		{
			kind: timeseries, title: "Partitions", unit: "short", thresholds: plain(),
			help: "Partitions of each flow that are mirrored, and that are not.",
			queries: []query{
				{per("sum", flow, shared("spillway_mirror_partitions", `state="running"`)), name + " running"},
				{per("sum", flow, shared("spillway_mirror_partitions", `state="stopped"`)), name + " stopped"},
			},
		},
		{
			kind: timeseries, title: "Stops, resyncs, sessions", unit: "short", thresholds: plain(),
			help: "Partitions that stopped, positions that were read back after an unsure answer, and append sessions that were opened. Many: mirrors restart, or the target answers badly.",
			queries: []query{
				{per("sum", "target", rise(shared("spillway_mirror_partition_stops_total"))), "{{target}} stops"},
				{per("sum", "target", rise(of("spillway_mirror_resyncs_total"))), "{{target}} resyncs"},
				{per("sum", "target", rise(of("spillway_mirror_append_sessions_total"))), "{{target}} sessions"},
			},
		},
		{
			kind: timeseries, title: "Batches by form", unit: "ops", thresholds: plain(), stack: true,
			help:    "Batches that were passed on as they were, and that had to be rebuilt because of holes or limits.",
			queries: []query{{per("sum", "source, target, form", rate(of("spillway_mirror_batches_total"))), pair + " {{form}}"}},
		},
		{
			kind: timeseries, title: "Marks and group positions", unit: "ops", thresholds: plain(),
			help: "Durable marks that were published, and positions of consumer groups that were carried over.",
			queries: []query{
				{per("sum", "site", rate(of("spillway_mirror_marks_total"))), "{{site}} marks"},
				{per("sum", "failover_group", rate(shared("spillway_mirror_group_offsets_total"))), "{{failover_group}} group positions"},
			},
		},
		{
			kind: timeseries, title: "Foreign offsets by writer", unit: "short", thresholds: plain(), stack: true,
			help:    "What somebody else than its mirror wrote at a standby: a client that passes by the gateways, or a mirror that had lost its lease.",
			queries: []query{{per("sum", "target, topic, writer", rise(of("spillway_mirror_foreign_offsets_total"))), "{{target}} {{topic}} by {{writer}}"}},
		},
	}
}

func gatewayPanels() []picture {
	return []picture{
		{
			kind: timeseries, title: "Records acknowledged", unit: "recps", thresholds: plain(), stack: true,
			help:    "Records that producers were told are kept.",
			queries: []query{{per("sum", "failover_group", rate(shared("spillway_gateway_produced_records_total"))), "{{failover_group}}"}},
		},
		{
			kind: timeseries, title: "Time to acknowledge", unit: "s", thresholds: plain(),
			help: "From a batch's arrival to its acknowledgement, and the active site's part of it; the rest is waiting for the reserved end and other sites.",
			queries: []query{
				{quantile(0.5, "failover_group", shared("spillway_gateway_produce_seconds_bucket")), "{{failover_group}} median"},
				{quantile(0.99, "failover_group", shared("spillway_gateway_produce_seconds_bucket")), "{{failover_group}} 99th percentile"},
				{quantile(0.99, "failover_group", shared("spillway_gateway_produce_site_seconds_bucket")), "{{failover_group}} site's part, 99th percentile"},
			},
		},
		{
			kind: timeline, title: "Leases of gateways", unit: "short", thresholds: []step{{red, nil}, {green, ptr(1)}},
			help:    "A gateway without a lease may not serve.",
			words:   goodBad("held", "lost"),
			queries: []query{{per("min", "instance", of("spillway_gateway_lease_held")), "{{instance}}"}},
		},
		{
			kind: timeline, title: "Groups served by gateways", unit: "short", thresholds: plain(),
			help:    "Which gateway serves which group now. During a move none does, and none without its lease.",
			words:   map[string]word{"1": {"serves", green, 0}, "0": {"waits", yellow, 1}},
			queries: []query{{per("min", "instance, failover_group", shared("spillway_gateway_share_serving")), "{{instance}} {{failover_group}}"}},
		},
		{
			kind: timeseries, title: "Bytes acknowledged", unit: "Bps", thresholds: plain(), stack: true,
			help:    "Bytes of the batches that producers were told are kept.",
			queries: []query{{per("sum", "failover_group", rate(shared("spillway_gateway_produced_bytes_total"))), "{{failover_group}}"}},
		},
		{
			kind: timeseries, title: "Requests", unit: "reqps", thresholds: plain(), stack: true,
			help:    "Requests that were answered, by API of Kafka.",
			queries: []query{{per("sum", "api", rate(of("spillway_gateway_requests_total"))), "{{api}}"}},
		},
		{
			kind: timeseries, title: "Time to answer", unit: "s", thresholds: plain(),
			help:    "99th percentile by API, holds included. Fetch and JoinGroup wait by nature.",
			queries: []query{{quantile(0.99, "api", of("spillway_gateway_request_seconds_bucket")), "{{api}}"}},
		},
		{
			kind: timeseries, title: "Connections", unit: "short", thresholds: plain(), stack: true,
			help:    "Client connections that are open at each gateway.",
			queries: []query{{per("sum", "instance", of("spillway_gateway_connections")), "{{instance}}"}},
		},
		{
			kind: timeseries, title: "Requests that had to wait", unit: "reqps", thresholds: plain(), stack: true,
			help:    "Requests that were held because their group moved or was not served.",
			queries: []query{{per("sum", "failover_group", rate(shared("spillway_gateway_held_requests_total"))), "{{failover_group}}"}},
		},
	}
}

func refusalPanels() []picture {
	return []picture{
		{
			kind: timeseries, title: "Refusals", unit: "reqps", thresholds: plain(), stack: true,
			help:    "Partitions or requests that gateways themselves refused. Some after a move are ordinary: clients look for their coordinator again.",
			queries: []query{{per("sum", "reason", rate(of("spillway_gateway_refusals_total"))), "{{reason}}"}},
		},
		{
			kind: timeseries, title: "Connections opened and ended", unit: "ops", thresholds: plain(),
			help: "Many at once: clients cannot stay. Ends by frame, unknown API or malformed request: somebody speaks something else than Kafka.",
			queries: []query{
				{"sum(" + rate(of("spillway_gateway_connections_opened_total")) + ")", "opened"},
				{per("sum", "reason", rate(of("spillway_gateway_connections_closed_total"))), "ended: {{reason}}"},
				{per("sum", "reason", rate(of("spillway_gateway_connections_refused_total"))), "not accepted: {{reason}}"},
			},
		},
		{
			kind: timeseries, title: "Pauses for quotas", unit: "short", thresholds: plain(), stack: true,
			help:    "Client connections that are not read since their principal used more than gateway.quotas gives it, on average: by what it used too much of, bytes that it wrote, bytes that it read, or requests.",
			queries: []query{{per("sum", "kind", rate(of("spillway_gateway_quota_throttle_seconds_sum"))), "{{kind}}"}},
		},
		{
			kind: timeseries, title: "Producers after a move", unit: "short", thresholds: plain(), stack: true,
			help:    "First batches of producers at a new site: forwarded, found to be there already, waited, or refused.",
			queries: []query{{per("sum", "outcome", rise(of("spillway_gateway_first_contacts_total"))), "{{outcome}}"}},
		},
		{
			kind: timeseries, title: "Problems of gateways", unit: "ops", thresholds: plain(),
			help:    "Things that failed and are tried again, such as reading the coordinator store. The log names them.",
			queries: []query{{per("sum", "instance", rate(of("spillway_gateway_problems_total"))), "{{instance}}"}},
		},
		{
			kind: timeline, title: "Checks of /readyz", unit: "short", thresholds: []step{{red, nil}, {green, ptr(1)}}, width: 16,
			help:    "What each process needs and whether it has it.",
			words:   goodBad("good", "fails"),
			queries: []query{{per("min", "instance, check", of("spillway_ready")), "{{instance}} {{check}}"}},
		},
	}
}

func processPanels() []picture {
	return []picture{
		{
			kind: timeseries, title: "Processor time", unit: "short", thresholds: plain(),
			help:    "Cores in use by each process.",
			queries: []query{{per("sum", "instance", rate(of("process_cpu_seconds_total"))), "{{instance}}"}},
		},
		{
			kind: timeseries, title: "Memory", unit: "bytes", thresholds: plain(),
			help:    "Resident memory of each process.",
			queries: []query{{per("sum", "instance", of("process_resident_memory_bytes")), "{{instance}}"}},
		},
		{
			kind: timeseries, title: "Goroutines", unit: "short", thresholds: plain(),
			help:    "They rise with connections. A rise without them is a leak.",
			queries: []query{{per("sum", "instance", of("go_goroutines")), "{{instance}}"}},
		},
	}
}
