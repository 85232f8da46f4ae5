"""Next-day returns of 20 S&P 500 stocks, 1990 to 2022 (skfolio's prices): one ticker is one client.

Returns are in per cent of the price, and so is the MAE. Expect next to nothing over the naive
forecast: daily returns are close to unpredictable, which is why both naive forecasts stand beside it.
"""

import gzip
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from fedloom_client import ArraySamples, Choice, Data, Real, Standardize, Task, Training, Whole
from fedloom_client.sources.packaged import packaged

WINDOW = 20  # days: about a month of trading
TEST_FROM = "2018-01-01"


class Forecaster(nn.Module):
    """A GRU over the window; the return of the day after it."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(1, 16, batch_first=True)
        self.head = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, WINDOW, 1) -> (B, 1)."""
        states, _ = self.gru(x)  # (B, WINDOW, 16)
        out: Tensor = self.head(states[:, -1])
        return out


def data(_: Path | None) -> Data:
    """Windows (N, WINDOW, 1) and next-day returns (N, 1); every ticker's last years are the test."""
    with gzip.open(packaged("skfolio", "datasets/data/sp500_dataset.csv.gz"), "rt") as file:
        rows = [line.rstrip("\n").split(",") for line in file if line.strip()]
    prices = np.array([row[1:] for row in rows[1:]], float)  # (days, tickers)
    returns = (100 * (prices[1:] / prices[:-1] - 1)).astype(np.float32)
    days = np.array([row[0] for row in rows[2:]])  # the day of each return
    # Day by day, all tickers of a day together: any subset in this order ends with its latest days.
    windows = np.lib.stride_tricks.sliding_window_view(returns[:-1], WINDOW, axis=0)
    x = windows.reshape(-1, WINDOW, 1)
    y = returns[WINDOW:].reshape(-1, 1)
    tickers = np.tile(np.arange(prices.shape[1]), len(windows))
    late = np.repeat(days[WINDOW:] >= TEST_FROM, prices.shape[1])
    train, test = (ArraySamples(x[part], y[part], groups=tickers[part]) for part in (~late, late))
    return Data(train, test, ordered=True)


def naive_zero(data: Data) -> float:
    """MAE of saying that tomorrow's price is today's."""
    _, y = data.test.take(np.arange(len(data.test)))
    return float(np.abs(y).mean())


def naive_mean(data: Data) -> float:
    """MAE of always saying the mean return of the training years."""
    _, past = data.train.take(np.arange(len(data.train)))
    _, y = data.test.take(np.arange(len(data.test)))
    return float(np.abs(y - past.mean()).mean())


task = Task(
    name="stocks",
    model=Forecaster,
    data=data,
    loss="huber",  # follows the median of heavy-tailed returns rather than their rare jumps
    preprocess=Standardize(),
    training=Training(optimizer="adam", lr=0.003, batch_size=256, epochs=1, clip_norm=1.0, schedule="cosine"),
    partition="natural",
    clients=0,
    baselines={"last price": naive_zero, "training mean": naive_mean},
    space={
        "training.optimizer": Choice(("adam", "adamw", "momentum")),
        "training.lr": Real(low=1e-4, high=0.05, log=True),
        "training.batch_size": Choice((64, 128, 256, 512)),
        "training.epochs": Whole(low=1, high=3),
        "training.weight_decay": Real(low=0.0, high=0.01),
        "training.clip_norm": Choice((0.0, 1.0, 5.0)),
    },
)
