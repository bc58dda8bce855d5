-- wrk: another target and another cookie in each request.
local count = 0

request = function()
   count = count + 1
   wrk.headers["Cookie"] = "session=" .. string.rep("0123456789abcdef", 11) .. string.format("%016d", count)
   return wrk.format(nil, wrk.path .. "?n=" .. count)
end
