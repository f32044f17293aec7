"""reeltune env: what a report of a fault needs to say about the machine."""


def env() -> None:
    """Print versions, commit, hardware, drivers, memory and FFmpeg: what a report of a fault needs to say.

    Holds no path, no name of a user or machine, and no token.
    """
    from train.jobs.environment import describe_environment

    print("\n".join(f"{name:<16} {value}" for name, value in describe_environment().items()))
