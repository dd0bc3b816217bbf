package dashboards

// groups is the page about failover groups: who is served, where, and what a
// failover now would cost. The worst that can be is at the top left.
func groups() Dashboard {
	return assemble(Dashboard{
		File: "failover-groups.json", UID: "spillway-failover-groups", Title: "Spillway / Failover groups",
		Description: "Who is served and where, whether a failover would be safe, and what moves cost. Worst first.",
	}, []row{{"Now", groupTiles()}, {"Groups and sites", groupPanels()}, {"Moves", movePanels()}})
}

func groupTiles() []picture {
	siteDown := per("min", "job, site", of("spillway_site_up")) + " == 0"
	moving := per("max", "job, failover_group", fresh(shared("spillway_share_state", `state=~"FENCING|FENCED|CUTOVER|CAUGHT_UP"`)+" == 1"))
	orphaned := per("max", "job, failover_group", shared("spillway_share_active")+" == 1 and on (job, site) ("+siteDown+")")
	return []picture{
		{
			kind: stat, title: "Groups not served", unit: "short", thresholds: badFrom(1),
			help:    "Groups whose clients wait: their active site is down, or a move holds them. A move takes part of a second; longer is an outage.",
			queries: []query{{number(moving + " or " + orphaned), "groups"}},
		},
		{
			kind: stat, title: "Groups not safe to fail over", unit: "short", thresholds: badFrom(1),
			help:    "Groups that would stop, or lose more than their limit, if their active site were lost now.",
			queries: []query{{number(per("min", "job, failover_group", fresh(shared("spillway_share_failover_safe"))) + " == 0"), "groups"}},
		},
		{
			kind: stat, title: "Sites down", unit: "short", thresholds: badFrom(1),
			help:    "Sites that the votes of the places find down.",
			queries: []query{{number(siteDown), "sites"}},
		},
		{
			kind: stat, title: "Processes without the coordinator store", unit: "short", thresholds: badFrom(1),
			help:    "Processes that cannot read it. What they are asked to do by themselves, they will not do; their gateways stop serving when their leases end.",
			queries: []query{{number(of("spillway_coordinator_up") + " == 0"), "processes"}},
		},
		{
			kind: stat, title: "Gaps logged", unit: "short", thresholds: badFrom(1),
			help:    "Entries of the gap log in the time range of this page. Each deserves a look: spillway gaps list.",
			queries: []query{{"round(sum(increase(" + of("spillway_mirror_gaps_total") + "[$__range]))) or vector(0)", "gaps"}},
		},
		{
			kind: stat, title: "Automatic failover paused", unit: "short", thresholds: warnFrom(1, 2),
			help:    "Yes: a person paused it. spillway status says who and why.",
			words:   map[string]word{"0": {"no", green, 0}, "1": {"yes", yellow, 1}},
			queries: []query{{"max(" + of("spillway_automation_paused") + ")", "paused"}},
		},
	}
}

func groupPanels() []picture {
	return []picture{
		{
			kind: timeline, title: "State", unit: "short", thresholds: plain(),
			help:    "The state of each group. Anything but STABLE is a move under way.",
			words:   map[string]word{"1": {"is", blue, 0}},
			queries: []query{{per("max", "failover_group, state", fresh(shared("spillway_share_state"))) + " == 1", "{{failover_group}} {{state}}"}},
		},
		{
			kind: timeline, title: "Active site", unit: "short", thresholds: plain(),
			help:    "The site that serves each group.",
			words:   map[string]word{"1": {"active", green, 0}, "0": {"standby", "text", 1}},
			queries: []query{{per("max", "failover_group, site", fresh(shared("spillway_share_active"))), "{{failover_group}} {{site}}"}},
		},
		{
			kind: timeline, title: "Sites", unit: "short", thresholds: []step{{red, nil}, {green, ptr(1)}},
			help:    "What the votes of the places say of each site. No colour: nobody voted lately.",
			words:   goodBad("up", "down"),
			queries: []query{{per("min", "site", of("spillway_site_up")), "{{site}}"}},
		},
		{
			kind: timeline, title: "Safe to fail over", unit: "short", thresholds: []step{{red, nil}, {green, ptr(1)}},
			help:    "Whether losing the active site now would keep the group within its loss limit.",
			words:   goodBad("safe", "not safe"),
			queries: []query{{per("min", "failover_group", fresh(shared("spillway_share_failover_safe"))), "{{failover_group}}"}},
		},
		{
			kind: timeseries, title: "What a failover now could lose", unit: "short", thresholds: plain(),
			help: "Offsets that the active site has and the best standby lacks, beside the limit that an automatic failover heeds. With acknowledgements from two sites they are not acknowledged yet.",
			queries: []query{
				{per("max", "failover_group", fresh(shared("spillway_share_unreplicated_records"))), "{{failover_group}} unreplicated"},
				{per("min", "failover_group", shared("spillway_share_loss_records_max")), "{{failover_group}} limit"},
			},
		},
		{
			kind: timeline, title: "Acknowledgements degraded", unit: "short", thresholds: plain(),
			help:    "Yes: producers are answered before as many sites hold their records as the group's configuration asks for.",
			words:   map[string]word{"0": {"no", green, 0}, "1": {"yes", red, 1}},
			queries: []query{{per("max", "failover_group", fresh(shared("spillway_share_degraded"))), "{{failover_group}}"}},
		},
		{
			kind: timeseries, title: "At the active site alone", unit: "s", thresholds: plain(),
			help:    "How long the oldest record lies at the active site that no other site has, in the partition that is worst off. Where acknowledgements wait for one site; see ack.onLag.",
			queries: []query{{per("max", "failover_group", shared("spillway_gateway_lag_seconds")), "{{failover_group}}"}},
		},
		{
			kind: timeseries, title: "Partitions beyond the limit of lag", unit: "short", thresholds: plain(), stack: true,
			help: "Partitions of which the other sites lack more than ack.lagMax or ack.lagRecordsMax allows, and batches whose producers wait for that.",
			queries: []query{
				{per("sum", "failover_group", shared("spillway_gateway_lagging_partitions")), "{{failover_group}} partitions"},
				{per("sum", "failover_group", shared("spillway_gateway_blocked_acknowledgements")), "{{failover_group}} batches that wait"},
			},
		},
		{
			kind: timeseries, title: "How late producers are answered for a lag", unit: "s", thresholds: plain(),
			help: "99th percentiles of what ack.onLag adds to the time until producers are answered.",
			queries: []query{
				{quantile(0.99, "failover_group", shared("spillway_gateway_throttle_seconds_bucket")), "{{failover_group}} slowed down"},
				{quantile(0.99, "failover_group", shared("spillway_gateway_block_seconds_bucket")), "{{failover_group}} blocked"},
			},
		},
		{
			kind: timeseries, title: "Leases at each site", unit: "short", thresholds: plain(),
			help: "Gateways and mirrors that hold a lease. 0 gateways: no client is served there; 0 mirrors: the site falls behind.",
			queries: []query{
				{per("max", "site", fresh(of("spillway_site_gateways"))), "{{site}} gateways"},
				{per("max", "site", fresh(of("spillway_site_mirrors"))), "{{site}} mirrors"},
			},
		},
		{
			kind: timeseries, title: "Gaps by kind", unit: "short", thresholds: plain(), stack: true,
			help:    "Entries that were added to the gap log: what could not be mirrored, what others wrote, what was cut off by a failover.",
			queries: []query{{per("sum", "site, kind", rise(of("spillway_mirror_gaps_total"))) + " > 0", "{{site}} {{kind}}"}},
		},
		{
			kind: timeline, title: "Votes for down", unit: "short", thresholds: plain(),
			help:    "Which process's observer finds which site down. A single one among many has trouble of its own.",
			words:   map[string]word{"0": {"up", green, 0}, "1": {"down", red, 1}},
			queries: []query{{per("max", "instance, site", of("spillway_vote_down")), "{{instance}} of {{site}}"}},
		},
	}
}

func movePanels() []picture {
	held := func(part string) string {
		return per("sum", "failover_group, kind", "increase("+shared("spillway_move_held_seconds_"+part)+"[$__range])")
	}
	return []picture{
		{
			kind: timeseries, title: "Failover epoch", unit: "none", thresholds: plain(),
			help: "Rises with every move and abort. The gateway that lags behind the record is late to take notice.",
			queries: []query{
				{per("max", "failover_group", shared("spillway_share_epoch")), "{{failover_group}}"},
				{per("min", "failover_group", shared("spillway_gateway_share_epoch")), "{{failover_group}}, slowest gateway"},
			},
		},
		{
			kind: timeseries, title: "Requests that wait", unit: "short", thresholds: plain(), stack: true,
			help:    "Requests held at gateways because their group moves or is not served. They are answered when the move is over.",
			queries: []query{{per("sum", "failover_group", shared("spillway_gateway_held_requests")), "{{failover_group}}"}},
		},
		{
			kind: timeseries, title: "How long requests waited", unit: "s", thresholds: plain(),
			help: "What clients feel of a move: time that held requests waited.",
			queries: []query{
				{quantile(0.5, "failover_group", shared("spillway_gateway_hold_seconds_bucket")), "{{failover_group}} median"},
				{quantile(0.99, "failover_group", shared("spillway_gateway_hold_seconds_bucket")), "{{failover_group}} 99th percentile"},
			},
		},
		{
			kind: timeseries, title: "Hold of a move", unit: "s", thresholds: plain(),
			help:    "Mean time from FENCING to OPEN of the moves in the time range of this page, by kind.",
			queries: []query{{held("sum") + " / (" + held("count") + " > 0)", "{{failover_group}} {{kind}}"}},
		},
		{
			kind: timeseries, title: "What clients felt of drills", unit: "s", thresholds: plain(),
			help: "For how long clients waited in the failover of the last drill that passed, and whether drills are overdue. spillway drill list has all of them.",
			queries: []query{
				{per("max", "failover_group", fresh(shared("spillway_drill_recovery_seconds"))), "{{failover_group}} waited"},
				{per("max", "failover_group", fresh(shared("spillway_drill_overdue"))) + " == 1", "{{failover_group}} overdue"},
			},
		},
		{
			kind: timeseries, title: "Steps of moves", unit: "short", thresholds: plain(), stack: true,
			help:    "States that control loops wrote. Steps that repeat tell of moves that are aborted or tried again.",
			queries: []query{{per("sum", "failover_group, kind, state", rise(shared("spillway_move_transitions_total"))) + " > 0", "{{failover_group}} {{kind}}: {{state}}"}},
		},
		{
			kind: timeseries, title: "Steps that failed", unit: "short", thresholds: plain(), stack: true,
			help: "Actions of a move, and orders to a mirror, that failed and are tried again. The log of the process says why.",
			queries: []query{
				{per("sum", "failover_group, action", rise(shared("spillway_control_action_failures_total"))) + " > 0", "{{failover_group}}: {{action}}"},
				{per("sum", "failover_group, state", rise(shared("spillway_control_follow_failures_total"))) + " > 0", "{{failover_group}}: mirror in {{state}}"},
			},
		},
		{
			kind: timeseries, title: "Questions to a person", unit: "short", thresholds: plain(), stack: true,
			help:    "Times that a control loop found that it may not decide by itself. spillway status says what to decide.",
			queries: []query{{per("sum", "failover_group", rise(shared("spillway_move_asks_total"))), "{{failover_group}}"}},
		},
	}
}

func ptr(v float64) *float64 { return &v }
