-- A user drawn anew for each request; prints one line of figures at the end.
local users = tonumber(os.getenv('NUM_USERS'))
local path = os.getenv('ADDRESS')
function init() math.randomseed(1) end
function request()
  local here = path:gsub('USER', tostring(math.random(0, users - 1)))
  return wrk.format('GET', here)
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format('FIGURES %d %d %d %d %d %d %d %.0f %.0f %.0f %.0f\n', summary.requests,
    summary.duration, e.connect, e.read, e.write, e.status, e.timeout, latency:percentile(50),
    latency:percentile(90), latency:percentile(99), latency.max))
end
