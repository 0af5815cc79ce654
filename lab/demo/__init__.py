"""The main job as a story with real traffic: `run_demo` tells it, `traffic.py` keeps packets flowing meanwhile."""

from kilim.lab.demo.story import run_demo

__all__ = ["run_demo"]
