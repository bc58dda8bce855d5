"""Health of servers, as pure logic: time and bytes are passed in.

`state` says when checks that pass or fail take a server out or in again, `pace` when it is checked next. The
other modules are what is said to a server in a check, a module per protocol, by the interface in `exchange`;
`protocols` names them. Who opens connections and keeps time is `pylb.control`.

Floor: beside `pylb.balance`; it knows nothing of pylb but `excerpt`.
"""
