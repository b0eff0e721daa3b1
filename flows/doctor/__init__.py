"""`headstart doctor`: installation, workspace, server and runs."""
