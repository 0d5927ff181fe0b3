"""Configs: values only."""
