// Reads a safetensors file: the container of a model, see docs/FORMAT.md, "The model file".

const TYPES = {
  I8: Int8Array, U8: Uint8Array, I16: Int16Array, U16: Uint16Array, I32: Int32Array, F32: Float32Array, I64: BigInt64Array,
};

// `file` is a Uint8Array. Returns the metadata entry `tsae`, and the tensors by name: { shape, data }.
export function readModelFile(file) {
  const headerBytes = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + headerBytes)));
  const facts = JSON.parse(header.__metadata__.tsae);
  const tensors = {};
  delete header.__metadata__;
  for (const [name, { dtype, shape, data_offsets: [start, end] }] of Object.entries(header)) {
    const bytes = file.slice(8 + headerBytes + start, 8 + headerBytes + end); // copied: typed arrays must be aligned
    tensors[name] = { shape, data: new TYPES[dtype](bytes.buffer) };
  }
  return { facts, tensors };
}
