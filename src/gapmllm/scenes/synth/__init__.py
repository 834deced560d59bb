"""Procedural rooms: furniture, layout, camera paths, renderer, language."""
