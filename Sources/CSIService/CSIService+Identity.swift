internal import CSIProtocol

extension CSIService {
    func pluginInfo(_: Csi_V1_GetPluginInfoRequest) -> Csi_V1_GetPluginInfoResponse {
        var response = Csi_V1_GetPluginInfoResponse()
        response.name = Self.driverName
        response.vendorVersion = backend.release
        return response
    }

    func pluginCapabilities(
        _: Csi_V1_GetPluginCapabilitiesRequest
    ) -> Csi_V1_GetPluginCapabilitiesResponse {
        var response = Csi_V1_GetPluginCapabilitiesResponse()
        let types: [Csi_V1_PluginCapability.Service.TypeEnum] = [
            .controllerService, .volumeAccessibilityConstraints,
        ]
        response.capabilities = types.map { type in
            var capability = Csi_V1_PluginCapability()
            capability.service.type = type
            return capability
        }
        var expansion = Csi_V1_PluginCapability()
        expansion.volumeExpansion.type = .online
        response.capabilities.append(expansion)
        return response
    }

    func probe(_: Csi_V1_ProbeRequest) -> Csi_V1_ProbeResponse {
        var response = Csi_V1_ProbeResponse()
        response.ready.value = true
        return response
    }
}
