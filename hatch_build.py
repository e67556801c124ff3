"""Puts `configs/` and `launch/` into the package where it is built; where it is developed they stand beside it."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":  # not "editable"
            build_data["force_include"] = {name: f"mux_jax/{name}" for name in ("configs", "launch")}
