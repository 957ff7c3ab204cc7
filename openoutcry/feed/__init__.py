"""Getting frames, and keeping the stream whole: once for all venues, over the ports for sockets, HTTP and time."""
