"""Compiles the BPF objects when a wheel is built, so that no node needs a compiler. All else is in pyproject.toml."""

import subprocess

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithBpf(build_py):
    def run(self) -> None:
        if not self.editable_mode:  # a checkout has `make bpf`
            subprocess.run(["make", "-C", "bpf"], check=True)
        super().run()


setup(cmdclass={"build_py": BuildWithBpf})
