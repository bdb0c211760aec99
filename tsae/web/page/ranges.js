// Parts of files over HTTP. A server that ignores ranges sends the whole file, which is then kept: files are of bounded size.

const KEPT_FILES = 4;
const whole = new Map();

let token = null;

// What a server may ask for; a plain file host does not.
export function setToken(value) {
  token = value;
}

export class UnauthorizedError extends Error {}

export async function get(url, options = {}) {
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const response = await fetch(url, { ...options, headers });
  if (response.status === 401) throw new UnauthorizedError("This server asks for a token.");
  return response;
}

export class ChangedError extends Error {
  constructor() {
    super("The archive was changed meanwhile; reload the page.");
  }
}

// Bytes of `file` from `start` on, `length` of them; without a length, to its end.
export async function readRange(base, file, start = 0, length = null, signal = undefined) {
  if (whole.has(file)) return cut(whole.get(file), start, length);
  const isPart = length !== null;
  const headers = isPart ? { Range: `bytes=${start}-${start + length - 1}` } : {};
  const response = await get(new URL(file, base), { headers, signal });
  if (response.status === 404) throw new ChangedError();
  if (!response.ok) throw new Error(`${file}: the server answered ${response.status}`);
  const data = new Uint8Array(await response.arrayBuffer());
  if (response.status === 206) {
    if (data.length !== length) throw new Error(`${file}: ${data.length} bytes came, not ${length}`);
    return data;
  }
  if (isPart) keep(file, data);
  return cut(data, start, length);
}

function keep(file, data) {
  whole.set(file, data);
  if (whole.size > KEPT_FILES) whole.delete(whole.keys().next().value);
}

const cut = (data, start, length) => (length === null ? data.subarray(start) : data.subarray(start, start + length));

export async function unpack(data) {
  const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// The segment at a place of the description, unpacked.
export async function readSegment(base, { file, start = 0, bytes = null }) {
  return unpack(await readRange(base, file, start, bytes));
}
