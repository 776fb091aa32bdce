// What OpenAI's client for Node gets from the images server. Prints one JSON object.
// Arguments: the server's address, a folder that holds node_modules/openai, and a PNG file.
const fs = require("node:fs");
const path = require("node:path");
const { createRequire } = require("node:module");

const [baseURL, folder, file] = process.argv.slice(2);
const find = createRequire(path.join(path.resolve(folder), "x.js"));
const { OpenAI, toFile } = find("openai");

async function main() {
  const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
  const picture = (name) => toFile(fs.readFileSync(file), name, { type: "image/png" });
  const found = { models: (await client.models.list()).data.map((model) => model.id) };

  const one = await client.images
    .edit({ model: "gpt-image-2", image: await picture("a.png"), prompt: "one", seed: 7, steps: 2, cfg: 1.5 })
    .withResponse();
  found.one = one.data;
  found.model = one.response.headers.get("x-tagmoe-model");
  const several = [await picture("a.png"), await picture("b.png")];
  found.several = await client.images.edit({ model: "m", image: several, prompt: "many please", n: 2, seed: 3 });
  found.mask = await client.images.edit({
    model: "m", image: await picture("a.png"), mask: await picture("m.png"), prompt: "mask",
  });
  found.generated = await client.images.generate({
    model: "m", prompt: "text", size: "64x32", negative_prompt: "fog", cfg: 2, user: "u", quality: "high",
  });

  for (const edits of [false, true]) {
    const options = { model: "m", prompt: "s", stream: true, partial_images: 2 };
    const stream = edits
      ? await client.images.edit({ ...options, image: await picture("a.png") })
      : await client.images.generate(options);
    const events = [];
    for await (const event of stream) events.push(event.type);
    found[edits ? "edit_events" : "events"] = events;
  }

  found.errors = {};
  const wrong = {
    transparent: { background: "transparent" }, many: { n: 11 }, svg: { output_format: "svg" }, prompt: { prompt: "" },
  };
  for (const [name, fields] of Object.entries(wrong)) {
    try {
      await client.images.generate({ model: "m", prompt: "x", ...fields });
    } catch (error) {
      found.errors[name] = [error instanceof OpenAI.BadRequestError, error.status, error.param, error.type];
    }
  }
  console.log(JSON.stringify(found));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
