"""The dashboard: watches runs, live, from their stores alone.

It is a process of its own and only reads a run's store; what an operator asks for goes into the
store's table `command`, which the round loop looks at between rounds. Killing it touches no run.
"""
