"""The pictures of a request: from where they are named to `data:` URIs, as a route needs them.

Whoever serves on this machine or in its network gets no address to fetch and no path to read: what
it decodes has been looked at, fetched or read here.
"""
