"""From a config to a run: composing, building, stages, folder, summary."""
