"""Tests. Importing the package sets cheap compilation, before JAX is read."""

from tests.helpers import compiler

compiler.set_environment()
