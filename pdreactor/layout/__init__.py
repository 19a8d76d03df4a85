"""What there is beside the translation: tunnels, addresses, routes and neighbours, each following
the prefix. Nothing in here is imported where the configuration has none of it."""
