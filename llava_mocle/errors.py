"""The exception family. Everything a user can cause is a `UserError`; the command line prints it and exits with 2."""


class UserError(Exception):
    """A mistake its reader can mend: the message names the place, the value, what was expected and what to do."""


class ConfigError(UserError):
    """A recipe key, a command-line flag or a configuration field is wrong."""


class DataError(UserError):
    """A rows file, a row, an image or an assignment table is wrong."""


class ClusterModelError(UserError):
    """A cluster model is missing, damaged, or belongs to another encoder or rule."""


class CheckpointError(UserError):
    """A model folder is missing a part, is damaged, or is of another kind than asked for."""


class AssetError(UserError):
    """An embedded part could not be fetched, or is not the file it should be."""


class RoutingError(UserError, ValueError):
    """The routing inputs of a forward pass are missing, out of range, or of the wrong shape or dtype."""
