"""Machinery of the implementations for any backend."""
