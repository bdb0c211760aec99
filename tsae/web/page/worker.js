// A worker: fetches runs of records and decodes them.
//
// In: { model, token } once (the place of the model), then { id, base, file, start, bytes, items } and { id, inspect: true, … };
// { cancel: id }. Out: { id, pixels, failed } or { id, latents, … } or { id, error }.
import { crc32 } from "./crc32.js";
import { openDecoder, PIXEL_BYTES } from "./decoder/decoder.js";
import { readImage } from "./image_file.js";
import { readRange, readSegment, setToken } from "./ranges.js";

const running = new Map();
let decoder = null;

self.onmessage = async ({ data: message }) => {
  if (message.token) setToken(message.token);
  if (message.model) decoder = readSegment(message.base, message.model).then(openDecoder);
  else if (message.cancel !== undefined) running.get(message.cancel)?.abort();
  else await answer(message);
};

async function answer(message) {
  const abort = new AbortController();
  running.set(message.id, abort);
  try {
    const data = await readRange(message.base, message.file, message.start, message.bytes, abort.signal);
    const { reply, transfer } = message.inspect ? await inspect(message, data) : await decodeAll(message, data);
    self.postMessage({ id: message.id, ...reply }, transfer);
  } catch (error) {
    self.postMessage({ id: message.id, error: error.name === "AbortError" ? "cancelled" : error.message });
  } finally {
    running.delete(message.id);
  }
}

// A record: CRC-32, stream, lossless image.
function open(data, { offset, streamBytes, losslessBytes }) {
  const end = offset + 4 + streamBytes + losslessBytes;
  const checksum = new DataView(data.buffer, data.byteOffset).getUint32(offset, true);
  if (crc32(data.subarray(offset + 4, end)) !== checksum) throw new Error("the record does not match its checksum");
  const streamEnd = offset + 4 + streamBytes;
  return { stream: data.subarray(offset + 4, streamEnd), lossless: data.subarray(streamEnd, end) };
}

async function decodeAll({ items, lossy }, data) {
  const pixels = new Uint8ClampedArray(items.length * PIXEL_BYTES), failed = [];
  for (const [i, item] of items.entries()) {
    const room = pixels.subarray(i * PIXEL_BYTES, (i + 1) * PIXEL_BYTES);
    try {
      const { stream, lossless } = open(data, item);
      if (lossless.length && !lossy) room.set(await readImage(lossless));
      else (await decoder).decode(item.coding, stream, room);
    } catch (error) {
      failed.push([i, error.message]);
    }
  }
  return { reply: { pixels, failed }, transfer: [pixels.buffer] };
}

async function inspect({ items: [item], isImage }, data) {
  if (isImage) {
    const { stream } = open(data, item);
    return { reply: { pixels: await readImage(stream) }, transfer: [] };
  }
  const { stream } = open(data, item);
  return { reply: (await decoder).latents(item.coding, stream), transfer: [] };
}
