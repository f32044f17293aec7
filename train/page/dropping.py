"""The part of the page that takes files: they are sent as a form, as other clients send them, with the same limits."""

# Templates of gradio's: no ${...} but what it fills in.
DROP = """
<label class="drop">
  <input type="file" accept="image/*,video/*,.mkv,.avi,.webm" aria-label="Clip or picture">
  <strong>Drop a clip or picture</strong>
  <span>or click to choose one</span>
  <span class="progress" role="status"></span>
</label>
"""

# `element`, `props` and `trigger` are gradio's. A file that cannot be taken is told about before it is sent.
SEND = """
const MIB = 1048576;
const tell = text => { element.querySelector(".progress").textContent = text; };
const end = result => { tell(""); trigger("dropped", result); };
const reason = request => {
  try { return JSON.parse(request.responseText).error.message; }
  catch { return "the server answered " + request.status; }
};
const send = file => {
  if (!file.size) return end({problem: file.name + " is empty (0 bytes)"});
  if (file.size > props.max_file)
    return end({problem: file.name + " has more than " + (props.max_file / MIB).toFixed(1).replace(".0", "") + " MiB"});
  const request = new XMLHttpRequest(), form = new FormData();
  form.append("purpose", "user_data");
  form.append("file", file);
  request.upload.onprogress = event =>
    tell("sending " + file.name + ": " + Math.floor(100 * event.loaded / event.total) + " %");
  request.upload.onload = () => tell("looking at " + file.name);
  request.onload = () =>
    end(request.status == 200 ? {id: JSON.parse(request.responseText).id} : {problem: reason(request)});
  request.onerror = () => end({problem: file.name + " could not be sent; is the server still there?"});
  request.open("POST", "files");
  request.send(form);
};
element.addEventListener("change", event => {
  const file = event.target.files[0];
  event.target.value = "";
  if (file) send(file);
});
for (const name of ["dragenter", "dragover", "dragleave", "drop"])
  element.addEventListener(name, event => {
    event.preventDefault();
    element.classList.toggle("over", name.startsWith("dragen") || name == "dragover");
  });
element.addEventListener("drop", event => {
  const file = event.dataTransfer.files[0];
  file ? send(file) : end({problem: "drop a file"});
});
"""

STYLE = """
.drop { display: flex; flex-direction: column; gap: 4px; align-items: center; padding: 28px 12px; cursor: pointer;
  border: 2px dashed var(--border-color-primary); border-radius: var(--radius-lg);
  color: var(--body-text-color);
  overflow-wrap: anywhere; text-align: center; }
.drop:hover, .drop:focus-within, .over .drop { border-color: var(--color-accent); }
.drop input { position: absolute; opacity: 0; width: 1px; height: 1px; }
.seen { margin: 8px 0 0; }
.seen figcaption { overflow-wrap: anywhere; margin-bottom: 6px; color: var(--body-text-color); }
.seen div { display: grid; grid-template-columns: repeat(4, 1fr); gap: 4px; }
.seen img { width: 100%; margin: 0; border-radius: 4px; }
#told p { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; color: var(--body-text-color); }
#told [role="alert"] { padding: 8px 10px; border-left: 4px solid #dc2626;
  background: var(--background-fill-secondary); }
"""
