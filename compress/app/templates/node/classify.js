// Classify binary .pgm and .ppm images with the model beside this folder, in Node:
//
//     npm install            (offline or without a GPU: ONNXRUNTIME_NODE_INSTALL=skip npm install)
//     node classify.js IMAGE ...
//
// For every image: the class, its probability, and the milliseconds of one inference after a first one.
"use strict";

process.env.ORT_DISABLE_TELEMETRY ??= "1"; // read when the runtime is loaded
const fs = require("node:fs");
const path = require("node:path");
const ort = require("onnxruntime-node");

function fail(message) {
  console.error(message);
  process.exit(1);
}

// Pixels of a binary PGM or PPM file: bytes in rows of 1 or 3 channels.
function readImage(file) {
  const data = fs.readFileSync(file);
  const header = /^(P5|P6)\s+(\d+)\s+(\d+)\s+255\s/.exec(data.toString("latin1", 0, 64));
  if (!header) fail(`${file}: not a binary PGM or PPM file of 8 bits without comments`);
  const [width, height, channels] = [Number(header[2]), Number(header[3]), header[1] === "P5" ? 1 : 3];
  const pixels = new Uint8Array(data.subarray(header[0].length));
  if (pixels.length === 0 || pixels.length !== height * width * channels) {
    fail(`${file}: must hold ${height} x ${width} pixels of 8 bits`);
  }
  return new ort.Tensor("uint8", pixels, [height, width, channels]);
}

async function main(files) {
  if (files.length === 0) fail("usage: node classify.js IMAGE ...");
  const bundle = path.dirname(__dirname);
  const labels = fs.readFileSync(path.join(bundle, "labels.txt"), "utf8").split("\n");
  const session = await ort.InferenceSession.create(path.join(bundle, "model.onnx"));
  for (const file of files) {
    const feed = {image: readImage(file)};
    await session.run(feed);
    const start = performance.now();
    const {label, probability} = await session.run(feed);
    const milliseconds = performance.now() - start;
    const percent = (100 * probability.data[0]).toFixed(2);
    console.log(`${labels[Number(label.data[0])]}  ${percent} %  ${milliseconds.toFixed(2)} ms`);
  }
}

main(process.argv.slice(2)).catch(error => fail(error.message));
