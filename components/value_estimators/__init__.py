"""Value estimators: returns and advantages from predicted values and rewards."""

from components.value_estimators.action_values import QLambda, QLearning, Retrace
from components.value_estimators.returns import (
    lambda_returns,
    n_step_bootstraps,
    n_step_returns,
    q_lambda,
    retrace,
    v_trace,
)
from components.value_estimators.state_values import GAE, NStep, TDLambda, VTrace

__all__ = [
    "GAE",
    "NStep",
    "QLambda",
    "QLearning",
    "Retrace",
    "TDLambda",
    "VTrace",
    "lambda_returns",
    "n_step_bootstraps",
    "n_step_returns",
    "q_lambda",
    "retrace",
    "v_trace",
]
