"""Hyperparameters that several recipes share: type, range and words of each, written once.

A recipe that needs other words gives its own: `lr: Annotated[hyper.Lr, "step size of AdamW"]`; the last words count.
"""

import math
from typing import Annotated

from steadyq.algorithm.ranges import AT_LEAST_0, BELOW_1, COUNT, FRACTION, NOT_NEGATIVE, POSITIVE, Range, from_

ENTROPY = Range(
    "a number below 0.693 (log 2, the most that actions in [-1, 1] have)", lambda x: -math.inf < x < math.log(2)
)

Width = Annotated[int, COUNT, "units in each of the critic's two hidden layers"]
ActorWidth = Annotated[int, COUNT, "units in each of the actor's two hidden layers"]
ResidualWidth = Annotated[Width, "units of the critic's layers, two residual blocks"]
ResidualActorWidth = Annotated[ActorWidth, "units of the actor's layers, one residual block"]
NCritics = Annotated[int, COUNT, "number of critics"]
Bins = Annotated[int, from_(2), "atoms of the critic's distribution"]

Lr = Annotated[float, POSITIVE, "step size of Adam for critic, actor and temperature"]
ScheduledLr = Annotated[Lr, "step size of Adam for critic, actor and temperature at the start"]
MixedLr = Annotated[Lr, "step size of AdamW for the networks and of Adam for the temperature"]
LrEnd = Annotated[float, POSITIVE, "and at the end of its schedule, between which it falls linearly"]
ScheduleUpdates = Annotated[int, AT_LEAST_0, "updates of the schedule; 0 for the critic updates of the run"]
B1 = Annotated[float, BELOW_1, "first-moment decay of critic and actor"]
Decay = Annotated[float, NOT_NEGATIVE, "AdamW's weight decay of all parameters, times lr"]
ActorEvery = Annotated[int, COUNT, "critic updates per update of actor and temperature"]

Tau = Annotated[float, FRACTION, "speed of the target network's average"]
Alpha = Annotated[float, POSITIVE, "temperature at the start"]
TargetEntropy = Annotated[float, ENTROPY, "what the temperature steers the policy's entropy to, per action dimension"]
NormWarmUp = Annotated[
    int, AT_LEAST_0, "train-mode calls of a layer before batch normalisation becomes batch renormalisation"
]
ResetUpdates = Annotated[int, AT_LEAST_0, "critic updates between resets of all networks, 0 for none"]
