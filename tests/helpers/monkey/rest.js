// Whether the page's script rests, it is connected, and nothing is still to be drawn.
() => {
  const app = document.querySelector("[data-testid=stApp]");
  return !!app && app.dataset.testScriptState === "notRunning" && app.dataset.testConnectionState === "CONNECTED" &&
    !document.querySelector("[data-testid=stSkeleton], [data-testid=stAppSkeleton]");
}
