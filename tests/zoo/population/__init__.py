"""The zoo's zones and animals, one module a subject; `animals` puts them together."""
