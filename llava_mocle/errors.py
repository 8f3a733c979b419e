"""The exception family. The command line prints a `UserError` and exits with its `exit_code`."""


class UserError(Exception):
    """A mistake that the user can correct. The message names the place, the value, what was expected and what to do.

    Attributes:
        on_every_rank: all processes of a run raise it at the same place, so none has to tell the others.
        label: what the command line prints in front of the message; nothing if it is empty.
    """

    exit_code = 2
    label = "error"
    on_every_rank = False


class Preempted(UserError):
    """Not a mistake: the machine was taken away. The same command goes on from the checkpoint of the steps so far.

    The exit code is EX_TEMPFAIL of sysexits.h, by which a scheduler's script knows that it may requeue the job.
    """

    exit_code = 75
    label = "preempted"
    on_every_rank = True


class Interrupted(Preempted):
    """The same by Ctrl-C: nobody took the machine away."""

    label = ""


class ConfigError(UserError):
    """A recipe key, a command-line flag or a configuration field is wrong."""


class DataError(UserError):
    """A rows file, a row, an image or an assignment table is wrong."""


class ClusterModelError(UserError):
    """A cluster model is missing, damaged, or belongs to another encoder or rule."""


class CheckpointError(UserError):
    """A model folder is missing a part, is damaged, or is of another kind than asked for."""


class DivergenceError(UserError):
    """Loss, gradients or weights of a training run are no longer finite numbers."""

    on_every_rank = True


class AssetError(UserError):
    """An embedded part could not be fetched, or is not the file it should be."""


class RoutingError(UserError, ValueError):
    """The routing inputs of a forward pass are missing, out of range, or of the wrong shape or dtype."""
