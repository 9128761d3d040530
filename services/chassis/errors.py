"""The error tree of looksmith.errors, under the name that services know it by."""

from looksmith.errors import *  # noqa: F403
