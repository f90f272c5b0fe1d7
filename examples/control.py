"""Drive a dm_control task at its real rate from an exported policy, which acts in a process of its own.

    steadyq export RUN --numpy policy.npz
    python examples/control.py policy.npz --seconds 10

This process is the robot: at each tick it sends what it senses, and at the next it applies the action that came back.
If none came in time, the last one is held and the deadline counts as missed. The other process is the controller. It
imports NumPy (for an ONNX file, ONNX Runtime too) and no PyTorch.
"""

import argparse
import multiprocessing
import os
import time
from multiprocessing.connection import Connection

import numpy as np

from steadyq.deploy import Policy


def control(path: str, robot: Connection) -> None:
    """The controller: answer each observation with an action, until None comes."""
    policy = Policy.load(path)
    robot.send("ready")
    while (obs := robot.recv()) is not None:
        robot.send(policy(obs))


def drive(path: str, seconds: float) -> None:
    """The robot: simulate the task that the policy was trained on in real time, and count the missed deadlines."""
    os.environ.setdefault("MUJOCO_GL", "disabled")  # it opens no window, and dm_control warns where there is none
    from dm_control import suite

    spec = Policy.load(path).spec
    task = tuple(spec.trained["env"].split("-"))
    if task not in suite.ALL_TASKS:
        raise SystemExit(f"this example drives tasks of dm_control, and {path} was trained on {spec.trained['env']}")
    env = suite.load(*task, task_kwargs={"random": 0})
    frames = round(spec.step_seconds / env.control_timestep())  # the action repeat

    here, there = multiprocessing.Pipe()
    controller = multiprocessing.get_context("spawn").Process(target=control, args=(path, there), daemon=True)
    controller.start()
    here.recv()  # ready
    action = np.mean(spec.bounds(), 0)
    frame, asked, ticks, missed, late, total = env.reset(), False, round(seconds / spec.step_seconds), 0, 0.0, 0.0
    begin = time.perf_counter()
    for tick in range(ticks):
        if not asked:  # the controller is not at work on an older observation
            here.send(dict(frame.observation))
        deadline = begin + (tick + 1) * spec.step_seconds
        asked = not here.poll(max(0.0, deadline - time.perf_counter()))
        if asked:
            missed += 1
        else:
            action = here.recv()
        time.sleep(max(0.0, deadline - time.perf_counter()))
        late = max(late, time.perf_counter() - deadline)
        for _ in range(frames):
            frame = env.step(action)
            total += frame.reward or 0.0
            if frame.last():
                frame = env.reset()
    if asked:
        here.recv()
    here.send(None)
    controller.join()
    print(f"{ticks} steps of {1000 * spec.step_seconds:g} ms: {missed} deadlines missed, return {total:.0f}")
    print(f"the robot's own clock was {1000 * late:.1f} ms late at most")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Drive a dm_control task in real time from an exported policy.")
    parser.add_argument("policy", help="a file of `steadyq export`: .npz or .onnx")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long [10]")
    arguments = parser.parse_args()
    drive(arguments.policy, arguments.seconds)
