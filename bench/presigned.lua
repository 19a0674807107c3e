-- wrk script: sends the requests of a file, each once, in their own bytes. In the file, the length of a request
-- stands on a line before it. `wrk -t1 -s presigned.lua URL -- FILE`; when all are used, the last one is sent again.
local requests, sent = {}, 0

function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  for length in function() return file:read("*n") end do
    file:read(1)
    requests[#requests + 1] = file:read(length)
  end
  file:close()
end

function request()
  sent = sent + 1
  return requests[math.min(sent, #requests)]
end
