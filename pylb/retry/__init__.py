"""Tried again: when a request may be sent to a server once more, how soon, and how often over all requests.

Pure: a failure is a word, a request is what is told of it, and time is passed in.
"""
