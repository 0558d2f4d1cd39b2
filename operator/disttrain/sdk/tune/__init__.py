"""Look for good hyperparameters: trials are DistTrainJobs, Optuna says what to try next and what to give up."""

from disttrain.sdk.tune.search import Search, read
from disttrain.sdk.tune.trials import Standing, Trials
from disttrain.sdk.tune.tuner import Tuner

__all__ = ["Search", "Standing", "Trials", "Tuner", "read"]
