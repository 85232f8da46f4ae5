-- The run store, format 2. One writer (the round loop); any number of readers (reports, the dashboard).
CREATE TABLE run (            -- facts about the run as JSON values; `privacy` is {"budget": epsilon, "delta": delta}
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE client (
    id INTEGER PRIMARY KEY,   -- index of its shard, from 0
    name TEXT NOT NULL,
    examples INTEGER NOT NULL,      -- in the training part
    validation INTEGER NOT NULL,    -- in the validation part
    labels TEXT               -- JSON: examples of each class; null where unknown or no classes
);

CREATE TABLE round (
    number INTEGER PRIMARY KEY,     -- 0 is the evaluation before any training
    loss REAL,                -- on the held-out test set, mean over examples
    metric REAL,              -- the task's standard metric on the held-out test set
    metrics TEXT NOT NULL,    -- JSON: every metric on the held-out test set; and `epsilon`, the privacy spent
                              -- so far, in a run that accounts for it (its budget: fact `privacy`)
    train_loss REAL,          -- mean over clients weighted by examples, while training
    federated_loss REAL,      -- mean over clients weighted by examples, on their validation parts
    federated_metric REAL,
    worst_metric REAL,        -- mean of the worst 5 % of clients (at least one), on their validation parts
    clients_ok INTEGER NOT NULL,
    clients_failed INTEGER NOT NULL,
    rejected INTEGER NOT NULL,
    bytes_up INTEGER NOT NULL,
    bytes_down INTEGER NOT NULL,
    seconds REAL NOT NULL,
    arrays TEXT NOT NULL,     -- arrays_sha256 of the global arrays after the round
    train_seconds REAL,       -- until every update was in
    aggregate_seconds REAL,   -- from there until the new global arrays were made
    norm_limit REAL           -- the guard's line: a larger update stood out in this round; null for none
);

CREATE TABLE client_round (
    round INTEGER NOT NULL,
    client INTEGER NOT NULL,
    phase TEXT NOT NULL,      -- train or evaluate
    status TEXT NOT NULL,     -- ok, failed or rejected
    reason TEXT NOT NULL,     -- empty when ok
    examples INTEGER,
    loss REAL,
    metric REAL,              -- evaluate: the standard metric; train: null
    gradient_norm REAL,       -- train: mean over steps, before clipping
    seconds REAL,             -- at the client
    bytes_up INTEGER NOT NULL,
    bytes_down INTEGER NOT NULL,
    metrics TEXT NOT NULL,    -- JSON: everything the client reported
    finished REAL,            -- seconds from the start of the phase until its reply was in
    PRIMARY KEY (round, client, phase)
) WITHOUT ROWID;

CREATE TABLE event (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,       -- seconds since the epoch, coordinator's clock
    kind TEXT NOT NULL,       -- started, resumed, round, warning, failed, rejected, clipped, benched, repeated,
                              -- damaged, early-stop, clock, finished, interrupted,
                              -- and what operators asked for: pause, resume, stop, exclude, include
    round INTEGER,
    client INTEGER,
    data TEXT NOT NULL        -- JSON
);
CREATE INDEX event_kind ON event (kind);

CREATE TABLE command (        -- what operators ask for; the only table that the dashboard writes
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,       -- when it was asked, seconds since the epoch
    who TEXT NOT NULL,
    action TEXT NOT NULL,     -- pause, resume, stop, exclude, include
    client INTEGER,           -- whom, for exclude and include
    taken REAL                -- when the round loop took it up; null until then
);

-- Devices of a run over the link; empty in a simulation. Written by the link, beside the round loop.
CREATE TABLE device (
    id TEXT PRIMARY KEY,      -- its name in the fleet
    client INTEGER,           -- index among the run's clients; null for one that takes no part
    address TEXT NOT NULL,
    board TEXT NOT NULL,
    machine TEXT NOT NULL,
    system TEXT NOT NULL,
    cores INTEGER NOT NULL,
    memory_total INTEGER NOT NULL,  -- bytes
    version TEXT NOT NULL,    -- of fedloom
    trainer TEXT NOT NULL,    -- torch or onnx
    connected INTEGER NOT NULL,     -- 0 or 1
    last_seen REAL NOT NULL,  -- coordinator's clock
    work TEXT NOT NULL,       -- what it works on, in words; empty when idle
    reason TEXT NOT NULL      -- why it is not connected; empty while it is
) WITHOUT ROWID;

CREATE TABLE device_sample (  -- a figure that the board does not tell is null
    device TEXT NOT NULL,
    time REAL NOT NULL,       -- coordinator's clock
    cpu REAL,                 -- percent of all cores
    temperature REAL,         -- degrees Celsius
    memory INTEGER,           -- bytes available
    rss INTEGER,              -- bytes of the agent
    throttled INTEGER,        -- 0 or 1
    disk_free INTEGER,        -- bytes
    power REAL,               -- watts
    uptime REAL               -- seconds, of the agent
);
CREATE INDEX device_sample_time ON device_sample (device, time);
-- Since format 2: what a run goes on from.
CREATE TABLE checkpoint (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    round INTEGER NOT NULL,   -- the last finished round
    open INTEGER NOT NULL,    -- 1 where the round after it had begun
    state TEXT NOT NULL,      -- JSON: values, and hashes of the arrays that they belong to
    sha256 TEXT NOT NULL      -- of state
);

CREATE TABLE client_state (   -- Flower's Context.state, where the coordinator's process keeps it
    client INTEGER NOT NULL,
    checkpoint INTEGER NOT NULL,    -- id of the first checkpoint that it belongs to
    records TEXT NOT NULL,    -- JSON
    arrays TEXT,              -- hash of its arrays; null without any
    PRIMARY KEY (client, checkpoint)
) WITHOUT ROWID;

CREATE TABLE quarantine (     -- refused updates kept for inspection, a bounded number of them
    round INTEGER NOT NULL,
    client INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    rule TEXT NOT NULL,
    reason TEXT NOT NULL,
    norm REAL,                -- of its difference to the global arrays; null where it has none
    examples INTEGER,
    bytes INTEGER NOT NULL,
    arrays TEXT,              -- hash; null where the arrays cannot be kept (not the task's, or not finite)
    PRIMARY KEY (round, client, attempt)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS privacy (  -- the privacy ledger: what was released with noise; rows are never taken back
    unit TEXT NOT NULL,       -- what is hidden: client (with all its data) or sample (one example of a client)
    round INTEGER NOT NULL,
    client INTEGER NOT NULL,  -- whose data went into it; -1 for all clients'
    key TEXT NOT NULL,        -- tells it from other releases of the round: the same release counts once
    noise REAL NOT NULL,      -- standard deviation over sensitivity
    rate REAL NOT NULL,       -- probability with which the unit was drawn
    steps INTEGER NOT NULL,   -- mechanisms of which it consists
    PRIMARY KEY (unit, round, client, key)
) WITHOUT ROWID;
