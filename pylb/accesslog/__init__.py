"""The text of access logs (pure): formats, templates, escaping, dates, syslog's headers.

Floor: beside `pylb.http`. What a variable's value is, the worker knows (`pylb.worker.phases.logfields`);
where lines go, `pylb.worker.logwriter`.
"""
