"""Stand-ins for what the host packages may lack on a machine."""
