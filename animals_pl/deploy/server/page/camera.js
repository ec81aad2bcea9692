// A computer's camera, in a dialog. Phones use their own camera app: <input capture>.

const dialog = document.getElementById("viewfinder");
const video = dialog.querySelector("video");

export const isAvailable = () => Boolean(navigator.mediaDevices?.getUserMedia); // browsers require HTTPS or localhost

// Returns a JPEG file, or null if the dialog is closed. Rejects if there is no camera or it may not be used.
export async function takePhoto() {
  const stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } });
  try {
    video.srcObject = stream;
    await video.play();
    return (await isTaken()) ? await frame() : null;
  } finally {
    stream.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
  }
}

function isTaken() {
  dialog.returnValue = ""; // Escape does not change it
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "take"), { once: true });
  });
}

function frame() {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  return new Promise((resolve) => {
    canvas.toBlob((blob) => resolve(new File([blob], "photo.jpg", { type: blob.type })), "image/jpeg", 0.92);
  });
}

for (const button of dialog.querySelectorAll("button")) {
  button.addEventListener("click", () => dialog.close(button.value));
}
