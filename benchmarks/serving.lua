-- For wrk: GET of random keys, as benchmarks/access.py makes them, or of one path; figures as JSON at the end.
-- Arguments: first part of the path, number of keys (0: the first part is the whole path), last part.
local threads = 0

function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

function init(args)
  before, count, after = args[1], tonumber(args[2]), args[3] or ""
  math.randomseed(os.time() * 16 + number)
end

function request()
  if count == 0 then return wrk.format("GET", before) end
  local i = math.random(0, count - 1)
  local key = string.format("%05d/%05d_%05d.png", math.floor(i / 30000), math.floor(i / 30) % 1000, i % 30)
  return wrk.format("GET", before .. key .. after)
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'JSON {"requests": %d, "seconds": %.3f, "bytes": %d, "median_ms": %.3f, "p99_ms": %.3f, "max_ms": %.3f, "failed": %d}\n',
    summary.requests, summary.duration / 1e6, summary.bytes, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    latency.max / 1e3, errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
