-- The run store, format 2. One writer (the round loop); any number of readers (reports, the dashboard).
CREATE TABLE run (            -- facts about the run as JSON values
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
    metrics TEXT NOT NULL,    -- JSON: every metric on the held-out test set
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
    arrays TEXT NOT NULL      -- arrays_sha256 of the global arrays after the round
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
    PRIMARY KEY (round, client, phase)
) WITHOUT ROWID;

CREATE TABLE event (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,       -- seconds since the epoch, coordinator's clock
    kind TEXT NOT NULL,       -- started, resumed, warning, failed, rejected, clipped, benched, repeated,
                              -- damaged, early-stop, finished, interrupted
    round INTEGER,
    client INTEGER,
    data TEXT NOT NULL        -- JSON
);
CREATE INDEX event_kind ON event (kind);

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
