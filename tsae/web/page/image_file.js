// Image files of 32 x 32 pixels, read by the browser.

// Pixels as RGBA.
export async function readImage(file) {
  const bitmap = await createImageBitmap(new Blob([file]), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const context = new OffscreenCanvas(32, 32).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, 32, 32).data;
}
