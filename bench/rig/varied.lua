-- wrk: another target, cookie and trace in each request.
local count = 0

request = function()
   count = count + 1
   wrk.headers["Cookie"] = "session=" .. string.rep("0123456789abcdef", 11) .. string.format("%016d", count)
   wrk.headers["traceparent"] = string.format("00-%032x-%016x-01", count * 2654435761, count)
   return wrk.format(nil, wrk.path .. "?n=" .. count)
end
