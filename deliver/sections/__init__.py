"""The tables of the configuration file as frozen structs, by subject; see `deliver.settings`."""
