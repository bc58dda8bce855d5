"""Waited for: in which order the requests that wait for a place are served.

Pure: a request is whatever stands for it, and time is passed in.
"""
