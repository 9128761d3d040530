"""Thousands of hostile streams against running servers, while a bystander asks for what it always gets.

Run it by `python -m benchmarks.hostile_streams --json FILE`.

doors        the servers under attack, and every method that they have
calls        attacks by a gRPC client that keeps to HTTP/2, and to little else
sockets      attacks by bytes on a socket; frames: HTTP/2 by hand
bystander    a picture and a publication a second
siege        all of it at once, and what is left of the servers afterwards
"""
